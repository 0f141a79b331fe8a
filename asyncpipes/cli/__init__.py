"""The ``asyncpipes`` command. Needs the extra ``cli``."""
