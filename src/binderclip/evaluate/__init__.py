"""binderclip.evaluate"""
