"""What a command shows: its result in words or JSON, progress, the live table, shell completion. Knows no verb."""
