from octavize.errors import require_extra

require_extra("pydantic", "experiment")  # in one line, before a module in here needs it
