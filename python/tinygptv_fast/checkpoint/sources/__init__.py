"""The original's four kinds of files. Each module knows the key names of one of them, and what it may drop and why."""
