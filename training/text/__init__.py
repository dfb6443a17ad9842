"""Text encoders: prompts to vectors."""
