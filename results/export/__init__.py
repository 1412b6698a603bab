"""A model in the forms that other tools take, and its model card."""
