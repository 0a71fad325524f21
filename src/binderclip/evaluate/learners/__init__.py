"""Learners over several sets: more examples, one set after the other, tasks that arrive in turn."""
