"""binderclip.explain"""
