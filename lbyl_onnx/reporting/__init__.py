"""A report for people: one page that says what a run did to a network, and its pictures as files."""
