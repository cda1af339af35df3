"""What goes into a prompt and where: recalled memories, packing, pictures."""
