"""A model in the file formats of other tools, with its model card."""
