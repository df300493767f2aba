def write_report(results, figures, path): pass
