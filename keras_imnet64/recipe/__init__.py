"""Recipes: schema, JSON Schema, loading and overriding, differences, costs and listing."""
