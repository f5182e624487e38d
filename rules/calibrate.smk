# Set family and lambda_hat of every method. One job serves both protocols, so that the libraries are loaded once.


rule calibrate_method:
    input:
        bounds=protocols(RESULTS.bounds("calibration")),
        images=images("calibration"),
        selection_bounds=protocols(RESULTS.bounds("selection")),
        selection_images=images("selection"),
        splits=rules.split_images.output.splits,
    output:
        calibrations=protocols(RESULTS.calibration),
        family=GUARANTEED.family,
    log:
        f"{LOGS}/{{task}}/calibrate_method/{{method_run}}.log",
    benchmark:
        f"{TIMES}/calibrate_method/{{task}}-{{method_run}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=memory("calibrate_method"),
        runtime=growing(60),
    params:
        settings=settings("calibrate_method"),
        code=CODE["calibrate_method"],
    script:
        "../workflow_scripts/calibrate_method.py"
