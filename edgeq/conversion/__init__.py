"""One conversion, top to bottom: what is asked for, the flow, and what it says of itself."""
