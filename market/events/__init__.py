"""The event log: schema, files, and the bars that are made of it."""
