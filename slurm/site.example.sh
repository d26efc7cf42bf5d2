# What a cluster needs, in one file: copy it, change it, and name it for all scripts of jobs/ and
# slurm/ with `export MOESAIC_SITE=$HOME/site.sh`. It is shell, read at the start of each script, on
# the login node and in the job.
# shellcheck shell=bash
# shellcheck disable=SC2034

# Modules. A script has no `module` where the site defines it for login shells alone.
# source /etc/profile.d/lmod.sh
# module load gcc/12 openmpi/4.1 hdf5/1.14-mpi boost cmake ninja
# spack env activate moesaic
# source ~/miniforge3/bin/activate moesaic

# The command that is moesaic, in place of build/release/moesaic.
# MOESAIC_RUN="apptainer exec --bind /scratch $HOME/moesaic.sif moesaic"

# Options of every srun, after --mpi=pmix --cpu-bind=cores; of two that contradict each other the
# last counts. `srun --mpi=list` says which the site has. With none that fits the program's MPI each
# rank believes that it is alone.
# MOESAIC_SRUN="--mpi=pmi2"

# Options of every sbatch, which reads them from its environment.
# export SBATCH_ACCOUNT=my_project SBATCH_PARTITION=batch
