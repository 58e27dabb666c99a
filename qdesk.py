"""The `qdesk` command."""
