"""What a person or CI runs, thin over operations/."""
