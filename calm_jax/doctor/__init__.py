"""What `calm doctor` looks at: versions, devices, folders, model and data.

Nothing here raises because something is wrong: that is a finding.
"""
