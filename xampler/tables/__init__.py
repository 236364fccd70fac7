"""Every column of every table, and the store that holds them."""
