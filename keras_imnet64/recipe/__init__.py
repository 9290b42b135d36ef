"""Recipes: their schema, loading and overriding, messages, differences, costs and listing."""
