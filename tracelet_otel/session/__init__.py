"""The session of a process: its pipeline, its run, its beginning and its end."""
