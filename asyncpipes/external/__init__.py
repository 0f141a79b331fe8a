"""The external process's side: what a script uses. Needs ``orjson`` alone."""
