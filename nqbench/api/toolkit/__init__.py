"""What plugin authors share beside the contracts; each module has one subject, imported by its own name."""
