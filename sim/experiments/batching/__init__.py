"""What batch settings cost, by theory and by measurement."""
