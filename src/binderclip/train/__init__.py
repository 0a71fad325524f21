"""binderclip.train"""
