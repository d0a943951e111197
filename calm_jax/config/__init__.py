"""Gin: set-up, checks, and errors that name the fix."""
