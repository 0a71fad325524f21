"""binderclip.losses"""
