"""The broadcaster: numbers interactions per room, folds, thins and packs them, and writes the
global queue.
"""
