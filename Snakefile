# So that `snakemake --cores all` works from the root; the workflow itself is in workflow/.
include: "workflow/Snakefile"


rule default:
    default_target: True
    input:
        rules.all.input,
