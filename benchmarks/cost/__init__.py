"""What a call costs: by hand, with shockproof, and with other libraries."""
