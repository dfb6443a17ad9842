"""Networks that stages load weights into, and what goes into them."""
