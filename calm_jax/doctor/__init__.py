"""What `calm doctor` looks at: one module per topic, each gives findings.

    versions, machine, model, folders, data_sets --> findings --> text or JSON

Nothing here raises because something is wrong: that is a finding.
"""
