"""What machines are and what they can do: this one, measured, and others, from their data sheets."""
