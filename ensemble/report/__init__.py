"""What people look at: figures and tables of what was measured, as files that need nothing from elsewhere."""
