"""Images and what is known about them: from any copy of BreakHis to one manifest and an honest split."""
