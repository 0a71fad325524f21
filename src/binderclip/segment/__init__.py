"""binderclip.segment"""
