"""``python -m asyncpipes`` is the ``asyncpipes`` command."""

from .cli.main import main

if __name__ == "__main__":
    main()
