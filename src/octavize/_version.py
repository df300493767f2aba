"""The version, in the one place that whatever writes files may read it from."""

__version__ = "0.1.0"
