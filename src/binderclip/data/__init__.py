"""binderclip.data"""
