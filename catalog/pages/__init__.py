"""The pages of the report: a function a page, each from a `Source` of answers to markup, without touching a file."""
