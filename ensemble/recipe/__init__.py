"""The recipe: its parts, its YAML, and the code that it may name.

Take `load.load_recipe`; `recipe.Recipe` is what comes out. Nothing here reads a row or an image, and code that a recipe
names is read and hashed here, but run by workers alone.
"""
