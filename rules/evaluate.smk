# Metrics on the test images, and how often the risk exceeds alpha when calibration sets are drawn again.


rule evaluate_method:
    input:
        calibrations=rules.calibrate_method.output.calibrations,
        calibration_bounds=protocols(bounds("calibration")),
        test_bounds=protocols(bounds("test")),
        calibration_images=images("calibration"),
        test_images=images("test"),
        splits=rules.split_images.output.splits,
    output:
        metrics=protocols(RESULTS),
        per_image=protocols(f"{METHOD_RUN}/{{protocol}}/per_image.csv"),
        curve=protocols(f"{METHOD_RUN}/{{protocol}}/curve.csv"),
        positions=protocols(f"{METHOD_RUN}/{{protocol}}/positions.npz"),
        pools=protocols(f"{METHOD_RUN}/{{protocol}}/pool.npz"),
    log:
        f"{LOGS}/{{task}}/evaluate_method/{{method_run}}.log",
    benchmark:
        f"{TIMES}/evaluate_method/{{task}}-{{method_run}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=memory("evaluate_method"),
        runtime=growing(60),
    params:
        code=CODE["evaluate_method"],
    script:
        "../workflow_scripts/evaluate_method.py"


rule trace_candidates:
    input:
        candidates=rules.finetune_method.output.candidates,
        images=images_of(*POOL),
        splits=rules.split_images.output.splits,
    output:
        curves=directory(f"{METHOD_RUN}/candidate_curves"),
    log:
        f"{LOGS}/{{task}}/trace_candidates/{{method_run}}.log",
    benchmark:
        f"{TIMES}/trace_candidates/{{task}}-{{method_run}}.tsv"
    priority: 10  # candidates may be temporary, and large
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory("trace_candidates"),
        runtime=growing(120),
        gpu=GPUS,
    params:
        settings=settings("trace_candidates"),
        code=CODE["trace_candidates"],
    script:
        "../workflow_scripts/trace_candidates.py"


rule assess_validity:
    input:
        calibrations=rules.calibrate_method.output.calibrations,
        pools=rules.evaluate_method.output.pools,
        candidates=branch(
            lambda wildcards: method_of(wildcards.method_run).is_sampled,
            then=[],
            otherwise=rules.trace_candidates.output.curves,
        ),
        bounds=lambda wildcards: expand(
            bounds("{split}"), protocol="guaranteed", split=PLAN.compared(wildcards.method_run), **wildcards
        ),
        images=lambda wildcards: images_of(*PLAN.compared(wildcards.method_run))(wildcards),
        splits=rules.split_images.output.splits,
    output:
        rows=f"{METHOD_RUN}/validity.csv",
    log:
        f"{LOGS}/{{task}}/assess_validity/{{method_run}}.log",
    benchmark:
        f"{TIMES}/assess_validity/{{task}}-{{method_run}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(3000),
        runtime=growing(60),
    params:
        settings=settings("assess_validity"),
        code=CODE["assess_validity"],
    script:
        "../workflow_scripts/assess_validity.py"


rule gather_validity:
    input:
        rows=expand(rules.assess_validity.output.rows, task=PLAN.tasks, method_run=PLAN.first_method_runs),
    output:
        table=f"{RUN}/tables/validity.csv",
    log:
        f"{LOGS}/gather_validity.log",
    benchmark:
        f"{TIMES}/gather_validity.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    script:
        "../workflow_scripts/gather_validity.py"
