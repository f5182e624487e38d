# Metrics on the test images, and how often the risk exceeds alpha when calibration sets are drawn again.


rule evaluate_method:
    input:
        calibrations=rules.calibrate_method.output.calibrations,
        calibration_bounds=protocols(RESULTS.bounds("calibration")),
        test_bounds=protocols(RESULTS.bounds("test")),
        calibration_images=images("calibration"),
        test_images=images("test"),
        splits=rules.split_images.output.splits,
    output:
        metrics=protocols(RESULTS.metrics),
        per_image=protocols(RESULTS.per_image),
        curve=protocols(RESULTS.curve),
        positions=protocols(RESULTS.positions),
        pools=protocols(RESULTS.pool),
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
        curves=directory(RUN.candidate_curves(*METHOD_RUN)),
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
            RESULTS.bounds("{split}"), protocol="guaranteed", split=PLAN.compared(wildcards.method_run), **wildcards
        ),
        images=lambda wildcards: images_of(*PLAN.compared(wildcards.method_run))(wildcards),
        splits=rules.split_images.output.splits,
    output:
        rows=RUN.validity(*METHOD_RUN),
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
        table=RUN.table("validity"),
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
