"""Two agents for minutes or hours beside everything that hosts and networks do to them."""
