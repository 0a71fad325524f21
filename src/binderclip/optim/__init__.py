"""binderclip.optim"""
