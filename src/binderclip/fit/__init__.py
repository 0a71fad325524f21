"""binderclip.fit"""
