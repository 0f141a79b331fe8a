"""The host's side: launch a script, follow its channel, fan events out, judge the outcome."""
