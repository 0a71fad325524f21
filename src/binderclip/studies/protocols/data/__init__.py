"""Pictures, scenes and features that several studies measure on."""
