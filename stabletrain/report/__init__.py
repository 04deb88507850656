"""Pictures and HTML pages of runs, made from their records alone; nothing is measured here."""
