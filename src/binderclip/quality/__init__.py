"""binderclip.quality"""
