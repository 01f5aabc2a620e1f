"""Time, memory and error of every loss beside its peers, on the device at hand or compiled for one that is not.

`python -m benchmarks --help` says how to run it, BENCHMARKS.md what came out and how it was measured.

    cases.py         the table: a row a loss, with its inputs, its textbook form and its peers; a new case goes here
    linear.py        the forms of the loss of hidden states, of which it has a row
    sequences.py     those of CTC
    candidates.py    how the value and the gradient of a case are computed: here, by a peer, or by nobody (the copy)
    headline.py      the short list, for a GPU that is lent for minutes
    measure.py       rounds, ratios, errors against float64, floors; the most tokens that fit
    eager.py         calls without jit
    run.py           the records of a run, each saved when it is there, as long as there is time
    targets.py       the device at hand, and TPUs and GPUs to compile for without one
    compile_only.py  what the compilers of those say
    compiled_text.py what moves between devices, from their texts
    records.py       the result files
    report.py        BENCHMARKS.md and its charts, from all result files
    report_compiled.py, tables.py, charts.py    parts of it
"""
