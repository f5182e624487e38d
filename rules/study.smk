# Which solver, T and J: `snakemake solver_study`. `all` does not repeat it; config.yaml holds its result.
STUDY = RUN.solver_study


rule study_solver:
    input:
        images=images("selection"),
        prior=lambda wildcards: PLAN.prior_path(CONFIG.tasks[wildcards.task].prior),
    output:
        manifest=f"{STUDY}/{{task}}/{{solver}}-{{n_steps}}.json",
    log:
        f"{LOGS}/{{task}}/study_solver/{{solver}}-{{n_steps}}.log",
    benchmark:
        f"{TIMES}/study_solver/{{task}}-{{solver}}-{{n_steps}}.tsv"
    wildcard_constraints:
        solver="[a-z0-9_]+",
        n_steps=r"\d+",
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory("sample_variants"),
        runtime=growing(240),
        gpu=GPUS,
    params:
        settings=settings("study_solver"),
        code=CODE["study_solver"],
    script:
        "../workflow_scripts/study_solver.py"


rule measure_solvers:
    input:
        images=lambda wildcards: PLAN.images(wildcards.task, "selection"),
        variants=lambda wildcards: [
            f"{STUDY}/{wildcards.task}/{solver}-{n_steps}.json" for solver, n_steps in PLAN.studied_solvers
        ],
    output:
        rows=f"{STUDY}/{{task}}.csv",
    log:
        f"{LOGS}/{{task}}/measure_solvers.log",
    benchmark:
        f"{TIMES}/measure_solvers/{{task}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=memory("evaluate_method"),
        runtime=growing(60),
    params:
        settings=settings("measure_solvers"),
        code=CODE["measure_solvers"],
    script:
        "../workflow_scripts/measure_solvers.py"


rule choose_solver:
    input:
        rows=expand(rules.measure_solvers.output.rows, task=PLAN.tasks),
    output:
        multiext(f"{STUDY}/solvers", csv=".csv", md=".md", tex=".tex"),
        multiext(f"{STUDY}/solvers", png=".png", pdf=".pdf"),
        chosen=f"{STUDY}/chosen.yaml",
    log:
        f"{LOGS}/choose_solver.log",
    benchmark:
        f"{TIMES}/choose_solver.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        tolerance=CONFIG.solver_study.tolerance,
        reference=CONFIG.solver_study.reference.model_dump(),
        code=CODE["choose_solver"],
    script:
        "../workflow_scripts/choose_solver.py"


rule solver_study:
    input:
        rules.choose_solver.output.chosen,
