"""Small trainings that several studies share."""
