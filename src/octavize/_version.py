"""The version, in the one place that whatever writes files may read it from; `pyproject.toml` does, too."""

__version__ = "0.2.0"
